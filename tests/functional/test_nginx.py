"""nginx in front, with deploy/proxies/nginx.conf."""

import harness
import proxied
import proxies


class Nginx(proxied.Proxied):
    program = "nginx"
    front_class = proxies.Nginx


class Faults(proxied.ProxiedFaults):
    program = "nginx"
    front_class = proxies.Nginx


if __name__ == "__main__":
    harness.main()
