"""What the hardware is: target descriptions, resources, the instruction set, its arithmetic and its timing."""
