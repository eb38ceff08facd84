"""What is inside a virtual machine: images of the interpreter and of plugin code, the kernel that boots, and the programs they are made with."""
