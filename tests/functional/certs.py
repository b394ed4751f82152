"""Certificates made for one test: an authority, and what it signs."""

import os
import subprocess


def openssl(*args):
    subprocess.run(["openssl", *args], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Authority:
    def __init__(self, home, name="ca"):
        self.home, self.name = home, name
        self.cert, self.key = self.path(name + ".pem"), self.path(name + ".key")
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", self.key, "-out", self.cert,
                "-subj", f"/CN={name}", "-days", "2")

    def path(self, name):
        return os.path.join(self.home, name)

    def issue(self, name, alt="IP:127.0.0.1", dates=None, key=("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")):
        """The paths of a certificate and its key; `dates`: from and until, YYYYMMDDHHMMSSZ."""
        cert, private, request, ext = (self.path(f"{self.name}-{name}.{end}") for end in ("pem", "key", "csr", "ext"))
        openssl("req", *key, "-nodes", "-keyout", private, "-out", request, "-subj", f"/CN={name}")
        with open(ext, "w", encoding="ascii") as f:
            f.write(f"subjectAltName={alt}\n")
        if dates is None:
            openssl("x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self.key, "-CAcreateserial", "-days", "1",
                    "-extfile", ext, "-out", cert)
            return cert, private
        # Only `ca` takes dates, and it keeps a book.
        for book, text in (("index", ""), ("serial", "01\n"), ("conf", "[ca]\ndefault_ca=d\n[d]\ndatabase={0}/index\nserial={0}/serial\n"
                           "new_certs_dir={0}\ndefault_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n".format(self.home))):
            with open(self.path(book), "w", encoding="ascii") as f:
                f.write(text)
        openssl("ca", "-batch", "-notext", "-config", self.path("conf"), "-cert", self.cert, "-keyfile", self.key, "-in", request,
                "-startdate", dates[0], "-enddate", dates[1], "-extfile", ext, "-out", cert)
        return cert, private
