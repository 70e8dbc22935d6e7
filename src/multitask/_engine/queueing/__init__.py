"""What Queue stands on: one interface, a file per flavour; README.md beside this says what each promises."""
