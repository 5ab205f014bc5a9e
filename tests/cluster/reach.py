"""What can be connected to from somewhere."""

# A program: its argument is JSON, a list of [name, host, port]; it prints what became of a connection to each, by name.
PROBE = """
import json, socket, sys
found = {}
for name, host, port in json.loads(sys.argv[1]):
    try:
        socket.create_connection((host, port), timeout=2).close()
        found[name] = "open"
    except OSError as failure:
        found[name] = type(failure).__name__
print(json.dumps(found))
"""
