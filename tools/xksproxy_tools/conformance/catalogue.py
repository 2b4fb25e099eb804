"""The catalogue of requirements, with the reason if a requirement cannot be checked from outside."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Requirement:
    """A requirement of the XKS proxy API, in short form."""

    id: str
    level: str
    """MUST, SHOULD or MAY; FACT: behaviour of KMS; NOTE: advice; TEST: required by the public test client."""

    text: str
    unchecked: str = ""
    """The reason why no check tests it; empty if one does."""


CATALOGUE: Final = (
    Requirement("R-TLS-1", "MUST", "HTTPS on TLS 1.2 or later"),
    Requirement("R-TLS-2", "MUST", "At least one of the cipher suites that KMS offers"),
    Requirement("R-TLS-3", "MUST", "HTTP/1.1 or newer, and HTTP/1.1 is always served"),
    Requirement("R-TLS-4", "MUST", "The server certificate names the host"),
    Requirement("R-TLS-5", "MUST", "The server certificate is valid and of a public CA that KMS trusts"),
    Requirement("R-TLS-6", "SHOULD", "TLS client authentication is supported"),
    Requirement(
        "R-TLS-7",
        "MUST",
        "Client subject name and client root CA can be configured",
        "the proxy's configuration cannot be seen from outside",
    ),
    Requirement("R-TLS-8", "MUST", "A client certificate with another name or of another CA is refused"),
    Requirement("R-TLS-9", "FACT", "The client certificate that KMS presents", "what KMS does"),
    Requirement(
        "R-TLS-10",
        "MUST",
        "Only the name and the CA of KMS are accepted",
        "the operator's duty; the checks of R-TLS-8 show it for the certificates that are given",
    ),
    Requirement("R-TLS-11", "FACT", "KMS connects to port 443", "what KMS does"),
    Requirement("R-URI-1", "MUST", "Four APIs, all POST"),
    Requirement(
        "R-URI-2", "MUST", "The path has at most 128 legal characters", "what is entered in KMS, which refuses others"
    ),
    Requirement(
        "R-URI-3", "MUST", "The server is named by a domain name", "what is entered in KMS, which refuses others"
    ),
    Requirement("R-URI-4", "MUST", "A URI has at most 256 characters", "what is entered in KMS, which refuses others"),
    Requirement("R-URI-5", "MUST", "405 to a GET on an API URI"),
    Requirement("R-URI-6", "MUST", "A key id has up to 128 characters of A-Z a-z 0-9 - . _"),
    Requirement("R-URI-7", "MUST", "A key id names exactly one key"),
    Requirement("R-URI-8", "FACT", "KMS refuses a second KMS key on one external key", "what KMS does"),
    Requirement(
        "R-URI-9",
        "FACT",
        "A path prefix is a key store of its own",
        "the purpose of prefixes; R-AUTH-13 is checked with --other-path",
    ),
    Requirement(
        "R-URI-10",
        "MAY",
        "A quota of requests for each prefix",
        "a quota shows only under a load that would take it from others",
    ),
    Requirement("R-URI-11", "MUST", "A path that is not served is InvalidUriPathException"),
    Requirement(
        "R-URI-12", "FACT", "No API creates or changes keys", "how keys are managed cannot be seen from outside"
    ),
    Requirement("R-AUTH-1", "MUST", "All four APIs verify SigV4, or answer AuthenticationFailedException"),
    Requirement("R-AUTH-2", "MUST", "Missing or malformed headers and unknown ids are refused"),
    Requirement("R-AUTH-3", "MUST", "The form of an access key id", "how credentials are made; KMS refuses others"),
    Requirement(
        "R-AUTH-4",
        "MUST",
        "The form and the entropy of a secret access key",
        "how credentials are made; KMS refuses others",
    ),
    Requirement("R-AUTH-5", "MUST", "An access key id determines its secret"),
    Requirement("R-AUTH-6", "MUST", "An access key id reveals nothing about the secret", "how credentials are made"),
    Requirement("R-AUTH-7", "MUST", "The secret is protected from disclosure", "cannot be seen from outside"),
    Requirement("R-AUTH-8", "FACT", "KMS signs at least Host and X-Amz-Date"),
    Requirement("R-AUTH-9", "MUST", "The time of a request is verified"),
    Requirement("R-AUTH-10", "SHOULD", "More than 300 seconds behind or ahead is refused"),
    Requirement("R-AUTH-11", "SHOULD", "Two credentials at the same time"),
    Requirement(
        "R-AUTH-12",
        "SHOULD",
        "Credentials change without an interruption",
        "needs a change of the proxy's configuration",
    ),
    Requirement("R-AUTH-13", "NOTE", "Scope, signed headers and key store are verified, and the cause is not revealed"),
    Requirement("R-REQ-1", "MUST", "Requests and responses are JSON with its Content-Type"),
    Requirement("R-REQ-2", "MUST", "requestMetadata and its required members are required"),
    Requirement("R-REQ-3", "MUST", "ARNs of up to 2048 characters"),
    Requirement("R-REQ-4", "MUST", "An unlisted kmsOperation is no validation error"),
    Requirement("R-REQ-5", "MUST", "kmsRequestId is opaque"),
    Requirement("R-REQ-6", "FACT", "Nothing in requestMetadata needs validation"),
    Requirement("R-REQ-7", "FACT", "KMS may add members"),
    Requirement("R-REQ-8", "MUST", "Base64 is of the standard alphabet, with padding"),
    Requirement("R-REQ-9", "FACT", "Only 256-bit AES", "the scope of the API; R-META-2 is checked"),
    Requirement("R-REQ-10", "NOTE", "The largest legal request is accepted"),
    Requirement("R-META-1", "MUST", "keySpec, keyUsage and keyStatus are returned"),
    Requirement("R-META-2", "MUST", "keySpec is AES_256 for a 256-bit AES key"),
    Requirement("R-META-3", "MUST", "keyUsage is what the key supports"),
    Requirement("R-META-4", "MAY", "At most 10 usages"),
    Requirement("R-META-5", "MUST", "keyStatus is ENABLED where keys cannot be disabled"),
    Requirement("R-META-6", "FACT", "What CreateKey asks for", "what KMS does"),
    Requirement("R-META-7", "FACT", "When KMS asks for metadata", "what KMS does"),
    Requirement("R-ENC-1", "MUST", "AES-256-GCM of plaintexts of up to 4300 bytes"),
    Requirement("R-ENC-2", "MUST", "AAD of up to 8192 bytes"),
    Requirement("R-ENC-3", "MUST", "encryptionAlgorithm is AES_GCM"),
    Requirement("R-ENC-4", "MUST", "Ciphertext, IV and tag of 16 bytes are always returned"),
    Requirement("R-ENC-5", "MUST", "The ciphertext is as long as the plaintext"),
    Requirement("R-ENC-6", "MUST", "The tag is split from the ciphertext"),
    Requirement("R-ENC-7", "MUST", "The IV has 12 or 16 bytes, and none repeats"),
    Requirement("R-ENC-8", "MAY", "ciphertextMetadata has at most 20 bytes"),
    Requirement("R-ENC-9", "MUST", "The integrity value is returned if it is asked for"),
    Requirement("R-ENC-10", "MUST", "The algorithm of the integrity value is SHA_256"),
    Requirement("R-ENC-11", "MUST", "The plaintext is not logged", "logs cannot be seen from outside"),
    Requirement("R-ENC-12", "MAY", "Larger sizes may be refused as UnsupportedOperationException"),
    Requirement("R-ENC-13", "FACT", "When KMS encrypts", "what KMS does"),
    Requirement("R-DEC-1", "MUST", "Ciphertexts of up to 4300 bytes and AAD of up to 8192"),
    Requirement("R-DEC-2", "MUST", "Lengths of IV, tag and ciphertextMetadata are verified"),
    Requirement("R-DEC-3", "MUST", "A change of ciphertextMetadata is detected"),
    Requirement("R-DEC-4", "MUST", "Wrong AAD, IV, tag or ciphertext is InvalidCiphertextException"),
    Requirement("R-DEC-5", "MUST", "The plaintext is as long as the ciphertext"),
    Requirement("R-DEC-6", "MUST", "The plaintext is not logged", "logs cannot be seen from outside"),
    Requirement("R-DEC-7", "FACT", "When KMS decrypts", "what KMS does"),
    Requirement("R-HLTH-1", "MUST", "All fields, 1 to 10 EKM instances, a fleet size above zero"),
    Requirement("R-HLTH-2", "SHOULD", "A 200 means that cryptography works"),
    Requirement(
        "R-HLTH-3",
        "SHOULD",
        "Deep checks use keys of their own",
        "what the proxy does in its HSM cannot be seen from outside",
    ),
    Requirement("R-HLTH-4", "MUST", "Secondary authorization is not applied"),
    Requirement(
        "R-HLTH-5", "MAY", "Deep checks in the background", "how a result came about cannot be seen from outside"
    ),
    Requirement("R-HLTH-6", "MUST", "A result is at most 60 seconds old"),
    Requirement("R-HLTH-7", "FACT", "When KMS asks for the health", "what KMS does"),
    Requirement("R-HLTH-8", "FACT", "What KMS makes of no available EKM", "what KMS does"),
    Requirement("R-CDIV-1", "MUST", "The tag protects ciphertextMetadata"),
    Requirement("R-CDIV-2", "MUST", "AAD and ciphertextMetadata are composed with their lengths"),
    Requirement("R-CDIV-3", "MUST", "Absent counts as empty"),
    Requirement(
        "R-CDIV-4", "SHOULD", "The scheme of an older release is marked", "needs ciphertexts of an older release"
    ),
    Requirement("R-CDIV-5", "MUST", "The integrity value is the SHA-256 over AAD, metadata, IV, ciphertext and tag"),
    Requirement(
        "R-CDIV-6",
        "SHOULD",
        "Encrypt, compute, decrypt, and only then answer",
        "the order inside the proxy cannot be seen from outside; R-CDIV-8 shows the trial decryption",
    ),
    Requirement("R-CDIV-7", "FACT", "KMS verifies the integrity value", "what KMS does"),
    Requirement("R-CDIV-8", "TEST", "An integrity value for a key that cannot decrypt is InvalidKeyUsageException"),
    Requirement("R-ERR-1", "MUST", "Exactly the status and the name of each error"),
    Requirement("R-ERR-2", "MUST", "errorMessage has fewer than 512 printable characters"),
    Requirement("R-ERR-3", "FACT", "errorMessage ends in the logs of AWS accounts"),
    Requirement("R-ERR-4", "FACT", "Every error has a JSON body"),
    Requirement("R-AUTHZ-1", "MAY", "Authorization by request data", "the policy language is the vendor's choice"),
    Requirement(
        "R-AUTHZ-2",
        "SHOULD",
        "Authorization by request data is supported",
        "the policy language is the vendor's choice",
    ),
    Requirement("R-AUTHZ-3", "MUST", "Never applied to GetHealthStatus"),
    Requirement("R-AUTHZ-4", "MUST", "A denial is AccessDeniedException, never a validation error"),
    Requirement("R-AUTHZ-5", "SHOULD", "The deciding statement is logged", "logs cannot be seen from outside"),
    Requirement("R-LOG-1", "SHOULD", "Request metadata is logged", "logs cannot be seen from outside"),
    Requirement("R-LOG-2", "MUST", "No sensitive data is logged", "logs cannot be seen from outside"),
    Requirement("R-LOG-3", "MUST", "The integrity of logs is protected", "logs cannot be seen from outside"),
    Requirement("R-LOG-4", "SHOULD", "Time, success and error are logged", "logs cannot be seen from outside"),
    Requirement("R-LOG-5", "MAY", "The EKM instance is logged", "logs cannot be seen from outside"),
    Requirement("R-LB-1", "MUST", "Health checks for load balancers", "their address is the proxy's own choice"),
    Requirement("R-LB-2", "NOTE", "They have a URL of their own"),
    Requirement("R-LB-3", "FACT", "How a VPC endpoint service is built", "what AWS demands"),
    Requirement(
        "R-CONF-1",
        "SHOULD",
        "The configuration for the KMS console can be downloaded",
        "a matter of the proxy's user interface",
    ),
    Requirement("R-CONF-2", "MUST", "Its names and nesting", "a matter of the proxy's user interface"),
    Requirement("R-TIME-1", "FACT", "KMS waits 250 milliseconds"),
    Requirement(
        "R-TIME-2",
        "SHOULD",
        "The round trip to the AWS Region is at most 35 milliseconds",
        "a matter of where the proxy stands; measured from here it says nothing",
    ),
    Requirement("R-TIME-3", "FACT", "KMS sends up to 1800 requests a second", "a matter of load: see `xksproxy bench`"),
)
"""In the order of the specification."""
