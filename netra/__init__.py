"""The project: wires the apps together and owns no behaviour."""
