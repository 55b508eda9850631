"""moto as AWS: S3 as it is, and KMS with the one thing that moto leaves out: what is signed as MessageType DIGEST is not
hashed once more.

Usage: aws_server.py HOST PORT
"""

import sys
import threading

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from moto.kms.responses import KmsResponse
from moto.kms.utils import ECDSAPrivateKey
from moto.server import main

hash_and_sign = ECDSAPrivateKey.sign
answer = KmsResponse.sign
asked = threading.local()


def sign(self: KmsResponse) -> str:
    asked.with_digest = self._get_param("MessageType") == "DIGEST"
    return answer(self)


def sign_digest(self: ECDSAPrivateKey, message: bytes, signing_algorithm: str) -> bytes:
    if not asked.with_digest:
        return hash_and_sign(self, message, signing_algorithm)
    if signing_algorithm != "ECDSA_SHA_256":
        raise NotImplementedError(signing_algorithm)
    return self.private_key.sign(message, ec.ECDSA(Prehashed(hashes.SHA256())))


KmsResponse.sign = sign
ECDSAPrivateKey.sign = sign_digest

main(["-H", sys.argv[1], "-p", sys.argv[2]])
