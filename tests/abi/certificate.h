/* A certificate for a.example and its key, good until 2126. The key protects nothing. */
#ifndef CERTIFICATE_H
#define CERTIFICATE_H

#define CERTIFICATE \
    "-----BEGIN CERTIFICATE-----\n" \
    "MIIBlDCCATugAwIBAgIUH51hsSZMltp+xLjdInEh6yblsMMwCgYIKoZIzj0EAwIw\n" \
    "FDESMBAGA1UEAwwJYS5leGFtcGxlMCAXDTI2MTEyMjIzNTAzNloYDzIxMjYxMDI5\n" \
    "MjM1MDM2WjAUMRIwEAYDVQQDDAlhLmV4YW1wbGUwWTATBgcqhkjOPQIBBggqhkjO\n" \
    "PQMBBwNCAATM1x9T8BUio/bnY2GS9eyoOrLc087Q7EsD5H4DKnBCnuWhBTUSf1HT\n" \
    "sHlwGjefraeVVxRBAJiNRrjFIpO1YOgHo2kwZzAdBgNVHQ4EFgQU/YC+fvzgFH9D\n" \
    "M5xP4Vz1hl5UxowwHwYDVR0jBBgwFoAU/YC+fvzgFH9DM5xP4Vz1hl5UxowwDwYD\n" \
    "VR0TAQH/BAUwAwEB/zAUBgNVHREEDTALgglhLmV4YW1wbGUwCgYIKoZIzj0EAwID\n" \
    "RwAwRAIgQcB1aM+VdWTUZkDRN8i5sUNVnh42AR7wiaWKbrE+U6kCIHZxGwo19tJd\n" \
    "9I1Q8G/BpqqJ7paxjk4ds03pUjV1vlqz\n" \
    "-----END CERTIFICATE-----\n"

#define CERTIFICATE_KEY \
    "-----BEGIN PRIVATE KEY-----\n" \
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgwZbzr9OeTpnd5/3s\n" \
    "w39pq26X9FsfhhYoEqAuGqftAsShRANCAATM1x9T8BUio/bnY2GS9eyoOrLc087Q\n" \
    "7EsD5H4DKnBCnuWhBTUSf1HTsHlwGjefraeVVxRBAJiNRrjFIpO1YOgH\n" \
    "-----END PRIVATE KEY-----\n"

#endif
