"""What `flowar doctor` looks at, a function a line. Nothing here imports at its top what may be broken."""
