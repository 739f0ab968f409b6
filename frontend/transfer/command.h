// The commands of postern-transfer. Words after the command's name; the exit status is returned.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "frontend/imagebuild/spec.h"
#include "frontend/option/usage.h"
#include "policy/problem.h"

namespace postern::transfer {

int pull_command(std::span<const std::string> words);
int fetch_command(std::span<const std::string> words);
int cache_command(std::span<const std::string> words);
int push_command(std::span<const std::string> words);
int tag_command(std::span<const std::string> words);
int search_command(std::span<const std::string> words);
int delete_command(std::span<const std::string> words);
int registry_command(std::span<const std::string> words);
int remote_command(std::span<const std::string> words);
int keyserver_command(std::span<const std::string> words);
int key_servers_command(std::span<const std::string> words);
int request_command(std::span<const std::string> words);

// Parses, acts with signals noted instead of deadly, and prints the problem; the exit status.
int run(const option::Usage& usage,
        std::span<const std::string> words,
        Outcome<> (*act)(const option::Arguments& arguments));

// Prints the problem, with these words before it; returns its exit status.
int fail(Problem problem, std::string_view prefix = {});

// "While pulling image from oci registry: " and the like: what Apptainer says first.
std::string pulling(imagebuild::SourceKind kind);

}  // namespace postern::transfer
