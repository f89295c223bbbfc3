#!/usr/bin/env perl
# Enqueues a job over HTTP and waits for its outcome, with the modules of Perl itself: see README.md.
use strict;
use warnings;
use HTTP::Tiny;
use JSON::PP;
use Time::HiRes;

my $http = HTTP::Tiny->new(
    timeout         => 90,
    default_headers => {Authorization => "Bearer $ENV{API_TOKEN}", 'Content-Type' => 'application/json'},
);

sub call {
    my ($method, $path, $body) = @_;
    my $answer = $http->request($method, "$ENV{API_URL}$path", $body ? {content => encode_json($body)} : {});
    die "refused: $answer->{status} $answer->{content}\n" unless $answer->{success};
    return decode_json($answer->{content});
}

my $id = sprintf 'perl-%d-%d', Time::HiRes::time() * 1e6, $$;
call(PUT => "/api/queues/build/jobs/$id", {command => 'echo', args => ['hello from Perl'], timeout => '1m'});
my $record = call(GET => "/api/jobs/$id?wait=60s");    # answers when the job has ended, or after 60 s
my $text = $record->{stdout}{text} // $record->{error} // '';
chomp $text;
print "$record->{state} $text\n";
exit($record->{state} eq 'succeeded' ? 0 : 1);
