"""How Transferline is run: units, containers, manifests, monitoring. No part of the program."""
