"""The network in torch: frozen backbone, adapters, head, and where their weights come from."""
