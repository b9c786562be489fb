"""What the application does, apart from HTTP: functions that handlers, commands and tests may call.

They take and return plain values and models, and say by exceptions (`app.services.errors`) what is wrong.
"""
