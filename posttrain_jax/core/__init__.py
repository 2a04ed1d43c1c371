"""What every room stands on: records, masks, trees, names, meshes, keys."""
