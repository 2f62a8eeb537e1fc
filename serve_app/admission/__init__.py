"""Who may send work to the engines, and when: one queue for the whole service.

`Admission` decides, over messages in and events out, with no clock, socket or framework of its own. The gate
(`serve_app.gate`) runs one for all ingresses; an ingress that cannot reach the gate runs one for itself.

    both:    protocol.py     what they say to each other
    ingress: http.py         a request is admitted, or refused with 429/503 and Retry-After
             client.py       asks the gate, and hears which engine replica each sequence goes to
             admission_request.py, slot_grants.py   the answer for a request, and for each of its sequences
             link.py         the connection to the gate
    gate:    server.py       the socket
             policy.py       Admission: requests.py (what it knows), fair_queue.py (who waits),
                             engine_slots.py (free slots), key_limits.py, service_time.py

`rules.py` are the numbers of the config, `timer.py` a timer for deadlines that move.
"""
