"""Arrays only: decode, label codec, hashes, augmentation. No disk, no config."""
