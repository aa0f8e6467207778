"""Times, solvers, noise and pins of sampling: numbers without networks."""
