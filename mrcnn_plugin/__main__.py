"""`python -m mrcnn_plugin` is the command `mrcnn`."""

from mrcnn_command import main

if __name__ == "__main__":
    main()
