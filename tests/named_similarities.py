"""The shipped similarities by the names of their YAML."""

from tutelage.alignment.similarity import CKA, RSA, Gram, Procrustes, Ridge

SIMILARITIES = {
    "cka": CKA,
    "unbiased_cka": lambda: CKA(unbiased=True),
    "rsa": RSA,
    "rsa_whole": lambda: RSA(whole=True),
    "ridge": Ridge,
    "procrustes": Procrustes,
    "gram": Gram,
}
