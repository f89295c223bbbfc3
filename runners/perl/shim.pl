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
    my $package = load_target( $target, $module_path );
    no strict 'refs';
    my $function = $name =~ /::/ ? $name : "${package}::$name";
    NaqShim::NotFound->throw("`$target` has no function `$name`") if !defined &$function;
    return \&$function;
}

# Loads a module or a file, and returns the package that its functions are in.
sub load_target {
    my ( $target, $module_path ) = @_;
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
    return $package;
}

sub run_call {
    my ($call) = @_;
    my $pid = $$;
    $trace = '';
    open_control();
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

sub set_import_path {
    my ( $module_path, @without ) = @_;
    my %seen;
    my @first = grep { !$seen{$_}++ } map { File::Spec->rel2abs($_) } @$module_path, Cwd::getcwd();
    my %gone  = map  { $_ => 1 } @without, @first;
    @INC = ( @first, grep { ref || !$gone{$_} } @INC );
    return;
}

sub main {
    return warm() if grep { $_ eq '--warm' } @ARGV;
    my $call = $json->decode( read_file( delete $ENV{NAQ_CALL_FILE} ) );
    set_import_path( $call->{module_path} || [] );
    $0 = $call->{call};
    exit run_call($call);
}

# --- the warm protocol ---

# What Perl has no function for. The numbers of recvmsg differ; pidfd_open has one on all machines.
my %RECVMSG = ( x86_64 => 47, aarch64 => 212, riscv64 => 212 );
use constant PIDFD_OPEN => 434;

my $socket;
my $buffer = '';
# descriptors come with the first byte of a frame `job`, and no other frame has any
my @descriptors;
my @module_path;
my $recvmsg;

sub send_frame {
    my ($frame) = @_;
    my $data = $json->encode($frame);
    $data = pack( 'N', length $data ) . $data;
    while ( length $data ) {
        my $written = syswrite $socket, $data;
        die "the worker has gone: $!\n" if !defined $written;
        substr( $data, 0, $written ) = '';
    }
    return;
}

# Reads what has arrived, or waits for it. Returns the complete frames; undef if the worker has gone.
sub receive {
    my $data    = "\0" x 65536;
    my $control = "\0" x 4096;
    # struct iovec and struct msghdr, of 64 bits
    my $vector  = pack 'P Q', $data, length $data;
    my $message = pack 'Q L x4 P Q P Q l x4', 0, 0, $vector, 1, $control, length $control, 0;
    my $size    = syscall $recvmsg, fileno $socket, $message, 0;
    return [] if $size < 0 && $!{EINTR};
    return    if $size <= 0;
    my $control_size = unpack 'x40 Q', $message;
    my $flags        = unpack 'x48 l', $message;
    die "descriptors were lost: this process may open no more\n" if $flags & 8;    # MSG_CTRUNC
    while ( $control_size >= 16 ) {
        my ( $length, $level, $type ) = unpack 'Q l l', $control;
        last if $length < 16;
        # SOL_SOCKET and SCM_RIGHTS
        push @descriptors, unpack 'l*', substr( $control, 16, $length - 16 ) if $level == 1 && $type == 1;
        my $step = ( $length + 7 ) & ~7;
        substr( $control, 0, $step ) = '';
        $control_size -= $step;
    }
    $buffer .= substr $data, 0, $size;
    my @frames;
    while ( length $buffer >= 4 && length $buffer >= 4 + unpack 'N', $buffer ) {
        my $length = unpack 'N', $buffer;
        push @frames, $json->decode( substr $buffer, 4, $length );
        substr( $buffer, 0, 4 + $length ) = '';
    }
    return \@frames;
}

sub rss {
    my ( undef, $pages ) = split ' ', read_proc('/proc/self/statm');
    return $pages * POSIX::sysconf( POSIX::_SC_PAGESIZE() );
}

sub read_proc {
    my ($path) = @_;
    open my $file, '<:raw', $path or return '';
    local $/;
    return scalar <$file>;
}

sub count_entries {
    my ($path) = @_;
    opendir my $folder, $path or return 1;
    return scalar grep { /\A\d+\z/ } readdir $folder;
}

sub warm {
    require Errno;
    require POSIX;
    require Socket;
    my $machine = ( POSIX::uname() )[4];
    open $socket, '+<&=', $ENV{NAQ_WARM_FD} or die "descriptor $ENV{NAQ_WARM_FD} is not the worker's socket: $!\n";
    binmode $socket;
    require Fcntl;
    fcntl $socket, Fcntl::F_SETFD(), Fcntl::FD_CLOEXEC();
    $recvmsg     = $RECVMSG{$machine};
    @module_path = map { File::Spec->rel2abs($_) } grep { length } split /:/, $ENV{NAQ_MODULE_PATH} || '';
    set_import_path( \@module_path );
    my $is_loaded = eval {
        local $SIG{__DIE__} = sub { $trace = Carp::longmess('') };
        die "this shim cannot receive descriptors on $machine\n" if !$recvmsg || length pack( 'P', '' ) != 8;
        load_target( $_, \@module_path ) for @{ $json->decode( $ENV{NAQ_PRELOAD} || '[]' ) };
        1;
    };
    if ( !$is_loaded ) {
        my $message = "$@";
        print {*STDERR} $message;
        my %error = ( type => ref $@ || 'die', message => shortened( $message, MESSAGE_MAX ), trace => shortened( "$message$trace", TRACE_MAX ) );
        send_frame( { t => 'broken', error => \%error } );
        POSIX::_exit(1);
    }
    flush();
    my $threads = count_entries('/proc/self/task');
    my $cuda    = read_proc('/proc/self/maps') =~ /libcuda\./ ? 1 : 0;
    my @folders = ( @module_path, Cwd::getcwd() );
    my @files   = grep { my $file = $_; defined && grep { index( $file, "$_/" ) == 0 } @folders } values %INC;
    send_frame(
        {
            t        => 'hello',
            protocol => 1,
            pid      => $$,
            version  => sprintf( '%vd', $^V ),
            modes    => [ $threads == 1 && !$cuda ? 'fork' : (), 'standby' ],
            threads  => $threads,
            cuda     => $cuda ? JSON::PP::true() : JSON::PP::false(),
            rss      => rss(),
            files    => [ sort @files ],
        }
    );
    if ( ( $ENV{NAQ_WARM_MODE} || 'fork' ) eq 'standby' ) { standby() }
    else                                                  { zygote() }
    POSIX::_exit(0);
}

# Forks a child for each job, and waits. It runs no code of a job.
sub zygote {
    # by process id: number of the job, pidfd, and the socket to the child
    my %children;
    my $is_stopping = 0;
    # TERM reaches the whole tree of a job that is stopped; it is for the job's processes
    local $SIG{TERM} = 'IGNORE';
    while ( !$is_stopping || %children ) {
        my $bits = '';
        vec( $bits, $_, 1 ) = 1 for fileno $socket, map { ( $_->{pidfd}, $_->{is_ready} ? () : fileno $_->{link} ) } values %children;
        next if select( my $readable = $bits, undef, undef, undef ) < 0;
        if ( vec $readable, fileno $socket, 1 ) {
            my $frames = receive();
            # the children are the spawner's now; one that waits for its `go` sees the end of its socket
            return if !$frames;
            for my $frame (@$frames) {
                my $kind = $frame->{t};
                if    ( $kind eq 'job' )  { fork_job( $frame, \%children ) }
                elsif ( $kind eq 'ping' ) { send_frame( { t => 'pong', rss => rss() } ) }
                elsif ( $kind eq 'stop' ) { $is_stopping = 1 }
                elsif ( $kind eq 'go' ) {
                    my ($child) = grep { $_->{n} == $frame->{n} } values %children;
                    local $SIG{PIPE} = 'IGNORE';
                    # it fails if the child was killed meanwhile
                    syswrite $child->{link}, 'g' if $child;
                }
                elsif ( $kind ne 'pong' ) { send_frame( { t => 'huh' } ) }
            }
        }
        for my $pid ( keys %children ) {
            my $child = $children{$pid};
            if ( !$child->{is_ready} && vec $readable, fileno $child->{link}, 1 ) {
                $child->{is_ready} = 1;
                # nothing: the child died before it was ready, and `ended` follows
                send_frame( { t => 'started', n => $child->{n}, pid => $pid + 0 } ) if sysread $child->{link}, my $byte, 1;
            }
            if ( vec $readable, $child->{pidfd}, 1 ) {
                # of a process that has ended, before it is forgotten
                my ($stat) = read_proc("/proc/$pid/stat") =~ /.*\)\s+(.*)/s;
                my @fields = split ' ', $stat || '';
                my $ticks  = POSIX::sysconf( POSIX::_SC_CLK_TCK() );
                waitpid $pid, 0;
                my $status = $?;
                POSIX::close( $child->{pidfd} );
                my $link = delete( $children{$pid} )->{link};
                my $peak = '';
                # nothing if the job was killed
                sysread $link, $peak, 32 if $child->{is_ready} && select my $has_peak = bit( fileno $link ), undef, undef, 0;
                send_frame(
                    {
                        t      => 'ended',
                        n      => $child->{n},
                        status => $status,
                        utime  => ( $fields[11] || 0 ) / $ticks,
                        stime  => ( $fields[12] || 0 ) / $ticks,
                        $peak =~ /\A\d+\z/ ? ( rss => $peak + 0 ) : (),
                    }
                );
            }
        }
    }
    return;
}

sub bit {
    my $bits = '';
    vec( $bits, $_[0], 1 ) = 1;
    return $bits;
}

# where a forked child says at its end the most memory that it had
my ( $peak_link, $peak_pid );

END {
    if ( $peak_link && $peak_pid == $$ ) {
        # the exit code of the job
        local $?;
        my ($peak) = read_proc('/proc/self/status') =~ /^VmHWM:\s+(\d+)/m;
        local $SIG{PIPE} = 'IGNORE';
        syswrite $peak_link, $peak * 1024 if $peak;
    }
}

sub fork_job {
    my ( $frame, $children ) = @_;
    my @given = splice @descriptors, 0, 4;
    socketpair my $ours, my $theirs, Socket::AF_UNIX(), Socket::SOCK_STREAM(), 0 or die "no socket: $!\n";
    my $pid = fork;
    die "cannot fork: $!\n" if !defined $pid;
    if ( $pid == 0 ) {
        eval { be_child( $frame, \@given, $theirs ) };
        print {*STDERR} $@;
        # never back into the loop of the zygote
        POSIX::_exit(70);
    }
    close $theirs;
    POSIX::close($_) for @given;
    my $pidfd = syscall PIDFD_OPEN, $pid, 0;
    die "cannot watch a child: $!\n" if $pidfd < 0;
    $children->{$pid} = { n => $frame->{n}, pidfd => $pidfd, link => $ours, is_ready => 0 };
    return;
}

# The forked child: makes itself a process like a cold one, then waits for its `go`.
sub be_child {
    my ( $frame, $given, $link ) = @_;
    $SIG{TERM} = 'DEFAULT';
    POSIX::setsid();
    put_descriptors($given);
    opendir my $folder, '/proc/self/fd' or die "cannot list descriptors: $!\n";
    my @others = grep { /\A\d+\z/ && $_ > 3 && $_ != fileno $link } readdir $folder;
    closedir $folder;
    POSIX::close($_) for @others;
    syswrite $link, 'r';
    # nothing: the shim has gone
    my $byte = '';
    POSIX::_exit(70) if !sysread( $link, $byte, 1 ) || $byte ne 'g';
    # no program that the job executes gets it
    fcntl $link, Fcntl::F_SETFD(), Fcntl::FD_CLOEXEC();
    ( $peak_link, $peak_pid ) = ( $link, $$ );
    return run_warm_job($frame);
}

# Takes one job, which ends this process.
sub standby {
    my $job;
    while ( my $frames = receive() ) {
        for my $frame (@$frames) {
            my $kind = $frame->{t};
            if ( $kind eq 'job' ) {
                $job = $frame;
                # it fails in the leader of a session
                POSIX::setsid();
                my @given = splice @descriptors, 0, 4;
                put_descriptors( \@given );
                POSIX::close($_) for @given;
                send_frame( { t => 'started', n => $job->{n}, pid => $$ } );
            }
            elsif ( $kind eq 'go' ) {
                close $socket;
                run_warm_job($job);
            }
            elsif ( $kind eq 'ping' ) { send_frame( { t => 'pong', rss => rss() } ) }
            elsif ( $kind eq 'stop' ) { return if !$job }
            elsif ( $kind ne 'pong' ) { send_frame( { t => 'huh' } ) }
        }
    }
    return;
}

sub put_descriptors {
    my ($given) = @_;
    POSIX::dup2( $given->[$_], $_ ) for 0 .. $#$given;
    return;
}

# Runs the job as a process of its own would, and ends this process.
sub run_warm_job {
    my ($job) = @_;
    my $booted_in = Cwd::getcwd();
    my %env       = map { my $text = $_; utf8::encode($text); $text } %{ $job->{env} || {} };
    %ENV = %env;
    umask $job->{umask} if defined $job->{umask};
    my $cwd = $job->{cwd};
    utf8::encode($cwd);
    chdir $cwd or die "cannot change to $cwd: $!\n";
    POSIX::tzset();
    srand;
    if ( defined $job->{file} ) {
        # a program that asks whether it is the main one has to be
        my @words = map { my $text = "$_"; utf8::encode($text); $text } $job->{file}, @{ $job->{args} || [] };
        exec {$^X} $^X, @words or die "cannot execute $^X: $!\n";
    }
    my %is_module_path = map { $_ => 1 } @module_path;
    set_import_path( \@module_path, $is_module_path{$booted_in} ? () : $booted_in );
    $job->{module_path} = \@module_path;
    $0 = $job->{call};
    @ARGV = ();
    exit run_call($job);
}

main() if !caller;
1;
