"""A small job for the tests of the engine, which do not know the job that the project is for."""
