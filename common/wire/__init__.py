"""What crosses a wire, as plain parts: text and bytes, each checked on arrival.

Transports (Flower's messages, gRPC streams) carry the parts and know nothing of their meaning;
nothing here knows a transport.
"""
