"""moto as AWS, with two things that moto leaves out: what KMS signs as MessageType DIGEST is not hashed once more, and S3 takes
what comes with x-amz-checksum-sha256 under Object Lock, not just what names the algorithm as SDKs do.

Usage: aws_server.py HOST PORT
"""

import sys
import threading

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from moto.kms.responses import KmsResponse
from moto.kms.utils import ECDSAPrivateKey
from moto.s3.responses import S3Response
from moto.server import main
from werkzeug.datastructures import Headers

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


put = S3Response._key_response_put


def put_with_checksum(self: S3Response, *about):
    if self.headers.get("x-amz-checksum-sha256"):
        self.headers = Headers([*self.headers, ("x-amz-sdk-checksum-algorithm", "SHA256")])
    return put(self, *about)


S3Response._key_response_put = put_with_checksum
KmsResponse.sign = sign
ECDSAPrivateKey.sign = sign_digest

main(["-H", sys.argv[1], "-p", sys.argv[2]])
