"""A bundle's network and what is around it: slices in, numbers out. It knows no organ."""
