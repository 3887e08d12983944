"""What a response is: a refusal or not, and coherent, garbled or normal."""
