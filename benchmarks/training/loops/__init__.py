"""Programs that do the same work in processes of their own, each in the words of its library."""
