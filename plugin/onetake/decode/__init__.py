"""Files to packets to frames: probing, indexing and decoding, over PyAV."""
