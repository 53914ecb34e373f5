"""Next-token prediction of frames given actions: the sequence, the network, its directory."""
