"""``python -m tests.attack.served NAMESERVER serve …``: the gateway's commands, asking the attack's own name server.

The product knows nothing of this: one class gets another default, and then the ordinary command line runs. Without it
the names of the attack would have to stand in the machine's own ``/etc/resolv.conf``.
"""

import functools
import sys
from typing import Any

from gateway.__main__ import main
from gateway.net.resolver import Resolver


def ask(nameserver: str) -> None:
    original = Resolver.__init__

    @functools.wraps(original)
    def init(self: Resolver, **settings: Any) -> None:
        original(self, **{"nameservers": [nameserver], **settings})

    Resolver.__init__ = init  # type: ignore[method-assign]


if __name__ == "__main__":
    ask(sys.argv.pop(1))
    main()
