"""Workers in a sandbox made by the program ``bwrap`` (bubblewrap), as the ``sandbox: bubblewrap`` of level process."""
