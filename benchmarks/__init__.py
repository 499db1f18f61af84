"""Side-by-side measurements. A package, because opacus brings one of this name too."""
