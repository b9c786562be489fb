"""The Tornado handlers of the reference application, one idea a file."""
