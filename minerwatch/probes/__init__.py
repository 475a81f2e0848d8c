"""Evidence that is too costly for each process and tick: of suspects, or sampled of all."""
