// Changing the site's keyring (policy/ecl/facts.h says what is in it). Every file appears whole,
// under its own name, readable by all, writable by its owner alone.
#pragma once

#include <string>
#include <vector>

#include "policy/problem.h"

namespace postern::keys {

// OpenPGP public keys, or a PEM text: a public key or a certificate. Secret keys are refused.
// Returns what was added, in words.
Outcome<std::vector<std::string>> import_global(const std::string& directory,
                                                const std::string& bytes);

// An OpenPGP key by its fingerprint of 40 digits, or a PEM file by 64 digits (its name).
Outcome<> remove_global(const std::string& directory, const std::string& fingerprint);

}  // namespace postern::keys
