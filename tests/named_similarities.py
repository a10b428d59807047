"""The shipped similarities by the names that `similarity@...=` takes."""

from tutelage.alignment.similarity import CKA, RSA, Gram, Procrustes, Ridge

SIMILARITIES = {
    "cka": CKA,
    "unbiased_cka": lambda: CKA(unbiased=True),
    "cka_bfloat16": lambda: CKA(precision="bfloat16"),
    "cka, three at a time": lambda: CKA(block=3),
    "rsa": RSA,
    "rsa_whole": lambda: RSA(whole=True),
    "ridge": Ridge,
    "procrustes": Procrustes,
    "gram": Gram,
}
