"""Plans for a trainer: fitted to its real memory, or with the settings of its paper."""
