"""Files as they stand on a disk: named, checked, read whole and written whole."""
