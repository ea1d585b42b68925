"""What `hpcc-fuse` recognises, one group of patterns a file."""
