"""A plugin's own data: snapshots, stores, migrations."""
