"""The wire between driver and workers: messages, and their transport.

Each module names its process in brackets.

messages        what each side may say to the other, as frozen records (at both ends)
setup           what a worker is handed before its first lease (at both ends)
base            the executor that a job names, and the machine of its plan (in the driver)
local           workers as processes of this machine (in the driver)
ray             workers on a Ray cluster (in the driver)
ray_nodes       the cluster's nodes, and the machine that they are together (in the driver)
ray_relay       the parent of a worker on another node (a Ray actor there)
relay_listener  the TCP connection between the driver and a relay (at both ends)
worker_process  the process of such a worker, which may be started early (in the driver)
log_tail        what a worker prints, its last lines kept (in its parent)
"""
