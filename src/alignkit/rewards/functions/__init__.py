"""The built-in reward functions: small, pure, one sample at a time. `registry` says what each takes."""
