"""hpcc-explore: the device that meets a latency and an accuracy limit. Joins compiler/explore to the compiler."""
