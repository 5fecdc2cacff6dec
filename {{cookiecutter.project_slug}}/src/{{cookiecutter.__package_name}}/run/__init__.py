"""One run on disk and on the screen: its folder, log, trackers, plan and summary."""
