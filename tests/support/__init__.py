"""What tests share: files, data sets, runs, services and publishers made for them, and how they start processes."""
