"""Images: references, registries, the store of blobs and layers, snapshots. Knows nothing of starting containers."""
