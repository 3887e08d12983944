"""Where jobs run: this machine, Modal or a Ray cluster, behind one small protocol."""
