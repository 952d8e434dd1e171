"""The native ops and their modules. This folder imports torch only."""
