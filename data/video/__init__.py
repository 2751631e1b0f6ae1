"""Videos to frames: which frames, by which decoder, in which process, and where they are kept."""
