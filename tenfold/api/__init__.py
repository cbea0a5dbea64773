"""The public Python API, above all packages: what the command line calls, and what `import tenfold` offers."""
