"""Who may send work to the engines, and when: one queue for the whole service.

`Admission` decides, over messages in and events out, with no clock, socket or framework of its own. The gate
(`serve_app.gate`) runs one for all ingresses; an ingress that cannot reach the gate runs one for itself.

    ingress: http.py     a request is admitted, or refused with 429/503 and Retry-After
             client.py   tells the gate, and hears which engine replica each sequence goes to
    gate:    server.py   the socket
             policy.py   Admission: line.py (who waits), slots.py (free places), key_limits.py,
                         service_time.py
"""
