# naq's shim for Perl: calls one function for one job. The modules that come with Perl only; Perl 5.14 and newer.
#
# `runners/README.md` describes the contract: the call is JSON in the file `$NAQ_CALL_FILE`, the result and the error
# go to the control channel, and stdin, stdout and stderr are the job's.
use strict;
use warnings;

package Naq::Error;
use overload '""' => sub { ref( $_[0] ) . ': ' . $_[0]{message} . "\n" }, fallback => 1;

sub new {
    my ( $class, $message, %fields ) = @_;
    return bless { message => defined $message ? $message : '', %fields }, $class;
}
sub throw { my $class = shift; die $class->new(@_) }

# Ends the job with the exit code that means "try again": `Naq::Retry->throw("busy", after => "30s")`.
package Naq::Retry;
our @ISA = ('Naq::Error');

# Fails the job, and no attempt follows: `Naq::Fatal->throw("no such account")`.
package Naq::Fatal;
our @ISA = ('Naq::Error');

# The file or the function does not exist.
package NaqShim::NotFound;
our @ISA = ('Naq::Error');

# JSON cannot hold the result.
package NaqShim::SerializationError;
our @ISA = ('Naq::Error');

# a file's functions are those of the package that requires it
package main;
sub NaqShim::require_in_main { return require $_[0] }

package NaqShim;

use Carp ();
use Cwd  ();
use File::Spec;
use JSON::PP ();
use Scalar::Util ();

# jobs that say `use Naq` need no file for it
$INC{'Naq.pm'} = $INC{'Naq/Retry.pm'} = $INC{'Naq/Fatal.pm'} = __FILE__;

use constant {
    RETRY_EXIT_CODE => 75,
    # what a line of the control channel may have, unless the worker says otherwise; longer lines are dropped
    LINE_MAX => 256 * 1024,
    # as in an envelope
    DEPTH_MAX   => 64,
    MESSAGE_MAX => 4000,
    TRACE_MAX   => 32000,
};

my $json = JSON::PP->new->utf8->allow_nonref->max_depth(512)->canonical;
# where the error that is handled was thrown
my $trace = '';

# --- values ---

# Checks that JSON can hold a value: what it cannot hold is an error with its path.
sub check {
    my ( $value, $path, $depth ) = @_;
    # before anything makes a text of it
    my $is_number = defined $value && !ref $value && is_number( $_[0] );
    NaqShim::SerializationError->throw(
        "$path: more than ${\DEPTH_MAX} levels of nesting, or a reference to itself")
      if $depth > DEPTH_MAX;
    return if !defined $value;
    my $kind = ref $value;
    if ( $kind eq '' ) {
        # NaN and the infinities are the numbers that are no finite text
        NaqShim::SerializationError->throw("$path: JSON cannot hold the number $value")
          if $is_number && $value =~ /nan|inf/i;
        NaqShim::SerializationError->throw("$path: the text has a lone surrogate, so it is not valid Unicode")
          if $value =~ /[\x{D800}-\x{DFFF}]/;
    }
    elsif ( $kind eq 'ARRAY' ) {
        check( $value->[$_], "${path}[$_]", $depth + 1 ) for 0 .. $#$value;
    }
    elsif ( $kind eq 'HASH' ) {
        for my $key ( sort keys %$value ) {
            my $inner = $key =~ /\A[A-Za-z_]\w*\z/ ? "$path.$key" : "${path}['$key']";
            check( $value->{$key}, $inner, $depth + 1 );
        }
    }
    elsif ( $kind eq 'SCALAR' && ( $$value eq '0' || $$value eq '1' ) ) {
        # false and true as JSON::PP takes them too
    }
    elsif ( !JSON::PP::is_bool($value) ) {
        my $hint = $kind eq 'CODE' ? '; call it first' : Scalar::Util::blessed($value) ? '; return a plain hash' : '';
        NaqShim::SerializationError->throw("$path: JSON cannot hold a $kind$hint");
    }
    return;
}

# Whether the scalar is a number and not a text that looks like one.
sub is_number {
    require B;
    my $flags = B::svref_2object( \$_[0] )->FLAGS;
    return ( $flags & ( B::SVp_IOK() | B::SVp_NOK() ) ) && !( $flags & B::SVp_POK() );
}

# --- the control channel ---

sub line_max { return $ENV{NAQ_CONTROL_LINE_MAX} || LINE_MAX }

my $control;

# Takes the control channel: a descriptor of the shim's own, which the job does not close by mistake.
sub open_control {
    open $control, '>&', 3 or die "descriptor 3 is not the control channel: $!\n";
    binmode $control;
    return;
}

sub write_control {
    my ($data) = @_;
    local $SIG{PIPE} = 'IGNORE';
    # a failed write: the worker has gone
    while ( length $data ) {
        my $written = syswrite $control, $data;
        return if !defined $written;
        substr( $data, 0, $written ) = '';
    }
    return;
}

sub write_result {
    my ($value) = @_;
    check( $value, 'result', 1 );
    my $data = $json->encode( { result => $value } ) . "\n";
    NaqShim::SerializationError->throw( 'result: '
          . length($data)
          . ' bytes of JSON, and at most '
          . line_max()
          . ' are kept; write it to stdout or to a file' )
      if length($data) > line_max();
    write_control($data);
    return;
}

sub write_error {
    my ( $type, $message, $text, $retry ) = @_;
    for ( my $size = TRACE_MAX ; ; $size = int( $size / 2 ) ) {
        my %error = (
            type    => $type,
            message => shortened( $message, $size < MESSAGE_MAX ? $size : MESSAGE_MAX ),
            trace   => shortened( $text, $size ),
        );
        $error{retry} = $retry if defined $retry;
        my $data = $json->encode( { error => \%error } ) . "\n";
        if ( length($data) <= line_max() || $size < 16 ) {
            write_control($data);
            return;
        }
    }
}

# A text of at most about this many characters, half of them from its beginning, half from its end.
sub shortened {
    my ( $text, $size ) = @_;
    # bytes of a message, such as a file's name, that are UTF-8; others stay Latin-1
    utf8::decode($text) if !utf8::is_utf8($text);
    return $text        if length($text) <= $size;
    my $half = int( $size / 2 );
    return
        substr( $text, 0, $half ) . "\n["
      . ( length($text) - 2 * $half )
      . " characters left out]\n"
      . substr( $text, -$half );
}

# --- the function ---

sub find_function {
    my ( $call, $module_path ) = @_;
    my ( $target, $name ) = $call =~ /\A(.*[^:]):(\w+(?:::\w+)*)\z/s;
    NaqShim::NotFound->throw("`$call` is not `Module:function` or `file.pl:function`") if !defined $target;
    my $package = 'main';
    if ( $target =~ m{/|\.p[lm]\z} ) {
        my %seen;
        my @places = grep { !$seen{$_}++ } map { File::Spec->rel2abs( $target, $_ ) } @$module_path, Cwd::getcwd();
        my ($file) = grep { -f } @places;
        NaqShim::NotFound->throw( 'no file ' . join ' or ', @places ) if !defined $file;
        require_in_main($file);
    }
    else {
        NaqShim::NotFound->throw("`$target` is not the name of a module") if $target !~ /\A\w+(?:::\w+)*\z/;
        $package = $target;
        ( my $file = "$target.pm" ) =~ s{::}{/}g;
        # a module that the job's module needs is another matter: that error stays as it is
        NaqShim::NotFound->throw( "no module `$target` in " . join ', ', @INC )
          if !$INC{$file} && !grep { !ref && -f "$_/$file" } @INC;
        require_in_main($file);
    }
    no strict 'refs';
    my $function = $name =~ /::/ ? $name : "${package}::$name";
    NaqShim::NotFound->throw("`$target` has no function `$name`") if !defined &$function;
    return \&$function;
}

sub run_call {
    my ($call) = @_;
    my $pid = $$;
    $trace = '';
    my $value;
    my $is_done = eval {
        local $SIG{__DIE__} = sub { $trace = Carp::longmess('') };
        my $function = find_function( $call->{call}, $call->{module_path} || [] );
        # in scalar context; named arguments come last, as a list of pairs
        $value = $function->( @{ $call->{args} || [] }, %{ $call->{kwargs} || {} } );
        1;
    };
    # a child that the function forked and that returned from it
    if ( $$ != $pid ) {
        require POSIX;
        POSIX::_exit( $is_done ? 0 : 1 );
    }
    $is_done &&= eval { flush(); write_result($value); 1 };
    return $is_done ? 0 : report_error($@);
}

# Reports an error, and returns the exit code.
sub report_error {
    my ($error) = @_;
    flush();
    my $class = Scalar::Util::blessed($error);
    my $message =
        $class && $error->isa('Naq::Error')          ? $error->{message}
      : ref $error && !overload::Method( $error, '""' ) ? eval { $json->encode($error) } || "$error"
      :                                                "$error";
    $message =~ s/\s+\z//;
    # frames of this file say nothing to the author of the function
    my $frames = join '', grep { !/\Q${\__FILE__}\E|NaqShim::/ } map { "$_\n" } split /\n/, $trace;
    my $type   = $class || 'die';
    $type =~ s/\ANaqShim:://;
    my $text = ( $class ? "$type: " : '' ) . "$message\n$frames";
    {
        my $bytes = $text;
        utf8::encode($bytes) if utf8::is_utf8($bytes);
        print {*STDERR} $bytes;
    }
    my $is = sub { $class && $error->isa( $_[0] ) };
    if ( $is->('Naq::Retry') ) {
        my $after = $error->{after};
        write_control( $json->encode( { retry_after => "$after" } ) . "\n" ) if defined $after;
        write_error( $type, $message, $text );
        return RETRY_EXIT_CODE;
    }
    my $is_final = $is->('Naq::Fatal') || $is->('NaqShim::NotFound') || $is->('NaqShim::SerializationError');
    write_error( $type, $message, $text, $is_final ? JSON::PP::false() : undef );
    return 1;
}

sub flush {
    require IO::Handle;
    $_->flush for *STDOUT{IO}, *STDERR{IO};
    return;
}

sub read_file {
    my ($path) = @_;
    open my $file, '<:raw', $path or die "cannot read the call, $path: $!\n";
    local $/;
    my $data = <$file>;
    return $data;
}

sub main {
    open_control();
    my $call = $json->decode( read_file( delete $ENV{NAQ_CALL_FILE} ) );
    my %seen;
    unshift @INC, grep { !$seen{$_}++ } map { File::Spec->rel2abs($_) } @{ $call->{module_path} || [] }, Cwd::getcwd();
    $0 = $call->{call};
    exit run_call($call);
}

main() if !caller;
1;
