"""Ways of driving the model beside the plain one, one a file; decoding.py has what they share."""
