"""What a user sets: flags, `config.yaml`, and a mistake in either as an error of one line."""
